// Numbers as people read them.

export function count(number) {
  return Math.round(number).toLocaleString("en");
}

export function counted(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

// With k, M or G from `exact` on.
export function short(number, exact = 10000) {
  if (Math.abs(number) < exact) return count(number);
  for (const [size, sign] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(number) >= size)
      return `${(number / size).toFixed(Math.abs(number) >= 100 * size ? 0 : 1)}\u202f${sign}`;
  return count(number);
}

export function seconds(s) {
  if (!Number.isFinite(s)) return "–";
  if (Math.abs(s) < 0.0995) return `${Math.round(s * 1000)} ms`;
  if (Math.abs(s) < 10) return `${s.toFixed(2)} s`;
  if (Math.abs(s) < 100) return `${s.toFixed(1)} s`;
  const whole = Math.round(s);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

export function dollars(amount) {
  if (amount === null || amount === undefined) return "not known";
  return `$${amount.toFixed(amount && amount < 1 ? 4 : 2)}`;
}

export function percent(share) {
  if (!Number.isFinite(share)) return "–";
  const value = 100 * share;
  if (value > 0 && value < 0.1) return "< 0.1 %";
  if (value < 100 && value > 99.9) return "> 99.9 %";
  return `${value.toFixed(1).replace(/\.0$/, "")} %`;
}

export function when(t) {
  const date = new Date(t * 1000);
  if (Number.isNaN(date.getTime())) return "–";
  const two = (number) => String(number).padStart(2, "0");
  return (
    `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ` +
    `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`
  );
}
