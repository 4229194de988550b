"""Training and evaluation: `train.py` and `evaluate.py` are the programs, `recipes/` what they run."""

import sys

from experiments import backend, logs

backend.choose(sys.argv[1:])
logs.import_tensorflow()
