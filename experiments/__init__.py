"""Training and evaluation: `train.py` and `evaluate.py` are the programs, `recipes/` what they run."""

from experiments import logs

logs.import_tensorflow()
