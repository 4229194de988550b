"""The TPU's compiler, for chips that are not there: what `tools.compile_for_tpu` is made of."""
