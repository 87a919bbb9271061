"""Tests of how the engine compiles: the private option of numba's that it stands on still does what it says."""

import numpy as np
import pytest
from numba.core.errors import NumbaError, NumbaRuntimeError

from ringpit.engine.kernels import kernel


@pytest.mark.compiled
def test_a_kernel_that_allocates_is_refused():
    """Without reference counting nothing may be allocated, and numba refuses to compile what tries."""

    def allocating(count):
        return np.zeros(count, np.int64)

    with pytest.raises((NumbaError, NumbaRuntimeError, RuntimeError)):
        kernel(allocating)(3)
