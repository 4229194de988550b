"""keras-cv-attention-models' CoAtNet0 as a contender of the inference benchmark, in an environment that has it.

    python kecam_worker.py function

Speaks as `tools/benchmarks/worker.py` does, whose `serve` it borrows.
"""

import os
import sys
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow as tf
from keras_cv_attention_models import coatnet

sys.path.insert(0, str(Path(__file__).parents[3]))

from tools.benchmarks.worker import Classify, serve


def make() -> Classify:
    model = coatnet.CoAtNet0(pretrained=None)
    call = tf.function(lambda images: model(images / 127.5 - 1, training=False))
    return lambda images: call(images).numpy()


serve(make)
