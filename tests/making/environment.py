"""What libraries read when they are loaded; imported before any of them."""

import os

# Expected answers are those of full precision, on whatever processor the tests run.
os.environ["LEMEVIT_CPU_PRECISION"] = "fp32"
# Networks of a test are not worth their conversion; tests of OpenVINO ask for it.
os.environ.setdefault("LEMEVIT_RUNTIME", "torch")
# Workers of xdist share the cores: threads of each would wait for those of the others, spinning.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
