"""What some tests need of the machine."""

import pytest

from degradation.train.machine import NO_CUDA, can_compile, cuda_trouble

needs_cuda = pytest.mark.skipif(cuda_trouble() is not None, reason="needs CUDA")
without_cuda = pytest.mark.skipif(cuda_trouble() != NO_CUDA, reason="a CUDA device is present")
needs_compiler = pytest.mark.skipif(not can_compile(), reason="torch.compile needs a C++ compiler and Python's headers")
