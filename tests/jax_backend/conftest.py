"""These tests are for Keras' JAX backend: run them with KERAS_BACKEND=jax."""

import keras

collect_ignore_glob = [] if keras.config.backend() == "jax" else ["test_*.py"]
