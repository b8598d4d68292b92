"""Training on what was logged: ``distill train``.

``course`` puts the parts together: a data set that ``distill.exports`` wrote, the weights, a
``Method`` (one module each), and the folder in which what comes of it lies. torch, transformers,
TRL and PEFT are the extra ``train``, and imported inside functions: ``extra`` says what is missing.
"""
