"""What some tests need of the machine."""

import shutil
import sysconfig
from pathlib import Path

import pytest

from degradation.train.machine import NO_CUDA, cuda_trouble

needs_cuda = pytest.mark.skipif(cuda_trouble() is not None, reason="needs CUDA")
without_cuda = pytest.mark.skipif(cuda_trouble() != NO_CUDA, reason="a CUDA device is present")
compiles = shutil.which("g++") and Path(sysconfig.get_path("include"), "Python.h").exists()
needs_compiler = pytest.mark.skipif(not compiles, reason="torch.compile needs a C++ compiler and Python's headers")
