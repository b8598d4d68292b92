"""The keys of a user: made once, kept from others, refused where others may have had them."""

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.errors import InputError
from distill.protocol.keys import KeyRefused, read_worker_key
from distill.protocol.sockets import public_key
from distill.supervisor import keyring
from distill.supervisor.strangers import STRANGERS_LIMIT, Strangers


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


def worker_public() -> bytes:
    return public_key(bytes.fromhex(read_worker_key(keyring.worker_key_path()).worker_secret))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_they_are_made_when_first_needed_and_then_kept() -> None:
    before = os.umask(0)  # whatever the user's is
    try:
        keys = keyring.server_keys()
    finally:
        os.umask(before)
    files = sorted(keyring.folder().iterdir())
    assert [path.name for path in files] == ["allowed-workers", "engine.key", "worker.key"]
    assert {mode(path) for path in files} == {0o600}
    assert mode(keyring.folder()) == 0o700
    key = read_worker_key(keyring.worker_key_path())
    assert key.engine_public == public_key(keys.secret).hex()
    assert keys.allows(worker_public())
    assert not keys.allows(public_key(keys.secret))
    assert keyring.server_keys().secret == keys.secret
    assert keys.secret.hex() not in repr(keys)
    assert key.worker_secret not in repr(key)


def test_many_engines_that_start_at_once_agree() -> None:
    secrets: list[bytes] = []
    starters = [
        threading.Thread(target=lambda: secrets.append(keyring.server_keys().secret))
        for _ in range(8)
    ]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert len(secrets) == 8
    assert len(set(secrets)) == 1
    assert keyring.server_keys().allows(worker_public())


def test_a_key_is_struck_off() -> None:
    keys = keyring.server_keys()
    first = worker_public()
    keyring.worker_key_path().rename(keyring.folder() / "elsewhere.key")
    keyring.server_keys()
    second = worker_public()
    assert keys.allows(first)
    assert keys.allows(second)
    listed = keyring.folder() / keyring.ALLOWED_FILE
    listed.write_text(f"# one a line\n\n{second.hex()} the laptop\n")
    assert not keys.allows(first)
    assert keys.allows(second)
    listed.unlink()
    assert not keys.allows(second)
    assert not keyring.server_keys().allows(second), "what was struck off does not come back"


def test_a_list_that_others_may_have_written() -> None:
    keys = keyring.server_keys()
    listed = keyring.folder() / keyring.ALLOWED_FILE
    assert keys.allows(worker_public())
    listed.chmod(0o660)
    listed.write_text(listed.read_text() + "\n")
    assert not keys.allows(worker_public())


def _open_to_others(path: Path) -> None:
    path.chmod(0o640)


def _a_link(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to(path.with_name("other"))


def _a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


def _something_else(path: Path) -> None:
    path.write_text('{"engine_public": "00", "worker_secret": 1}')


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def _no_text(path: Path) -> None:
    path.write_bytes(b"\xff" * 100)


BAD: dict[Callable[[Path], None], str] = {
    _open_to_others: "can be read by others .mode 0640.. Run: chmod 600",
    _a_link: "it is a link",
    _a_pipe: "no plain file",
    _a_folder: "no plain file",
    _something_else: "holds no",
    _half: "holds no",
    _no_text: "holds no",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("file", [keyring.WORKER_FILE, keyring.ENGINE_FILE])
def test_a_file_that_is_no_secret(spoil: Callable[[Path], None], file: str) -> None:
    keyring.server_keys()
    path = keyring.folder() / file
    spoil(path)
    with pytest.raises(InputError, match=f"keys for --listen can't be used: .*{BAD[spoil]}"):
        keyring.server_keys()
    if file == keyring.WORKER_FILE:
        with pytest.raises(KeyRefused, match=BAD[spoil]):
            read_worker_key(path)


def test_a_folder_that_others_can_enter() -> None:
    keyring.server_keys()
    keyring.folder().chmod(0o755)
    with pytest.raises(InputError, match=r"open to others .*chmod 700"):
        keyring.server_keys()


def test_keys_of_two_engines() -> None:
    keyring.server_keys()
    (keyring.folder() / keyring.ENGINE_FILE).unlink()
    with pytest.raises(InputError, match=r"is for another engine.key. Remove it"):
        keyring.server_keys()


def test_a_worker_key_that_is_not_there() -> None:
    with pytest.raises(KeyRefused, match=r"no key file .* Copy it"):
        read_worker_key(keyring.worker_key_path())


def test_strangers_are_told_of_once() -> None:
    strangers = Strangers()
    assert strangers.is_news("10.0.0.1")
    assert not strangers.is_news("10.0.0.1")
    told = [strangers.is_news(f"10.0.1.{number}") for number in range(1000)]
    assert sum(told) == STRANGERS_LIMIT - 1
