"""The GPUs that the tests were given, and are not to find: `conftest` imports it before anything asks for one."""

import os

#: what is proved here are the CPU's bits, so `--device auto` is to find no GPU; test_cuda.py gives it back to commands.
#: The workers of pytest-xdist inherit this environment as it is made here: what it was is handed on beside it.
GIVEN = os.environ.setdefault("GPUS_OF_TESTS", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
AS_IT_WAS = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
if GIVEN != "all":
    AS_IT_WAS["CUDA_VISIBLE_DEVICES"] = GIVEN
os.environ["CUDA_VISIBLE_DEVICES"] = ""
