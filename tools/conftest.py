"""What pytest leaves out when it looks for examples: programs for environments of their own, with other packages."""

import importlib.util

collect_ignore_glob = ["benchmarks/peers/*", "imports/*"]
if importlib.util.find_spec("tf2onnx") is None:
    collect_ignore_glob.append("serving/onnx_operations.py")
