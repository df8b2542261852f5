"""How the default model came about: made-up scenes, training, evaluation, export. See README.md; not in the wheel."""
