"""
Bit tricks that numba does not offer: counting zeros of a 64-bit word, and masks without unsigned numbers.

Words are signed, so that compiled and interpreted code agree; bit 63 is the sign. The masks come from
tables because `1 << 63` is a negative number compiled and a large one interpreted.
"""

from typing import TYPE_CHECKING, Final

import numpy as np
from numba import config, types
from numba.extending import intrinsic

WORD_BITS: Final = 64

_ONE: Final = np.uint64(1)
_ALL: Final = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
BIT: Final = np.array([_ONE << np.uint64(i) for i in range(64)], np.uint64).view(np.int64)
FROM: Final = np.array([_ALL << np.uint64(i) for i in range(64)], np.uint64).view(np.int64)  # bits i..63
UPTO: Final = np.array([_ALL >> np.uint64(63 - i) for i in range(64)], np.uint64).view(np.int64)  # bits 0..i


@intrinsic
def _trailing_zeros(_context, _word):
    def codegen(context, builder, _signature, args):
        return builder.cttz(args[0], context.get_constant(types.boolean, True))

    return types.int64(types.int64), codegen


@intrinsic
def _leading_zeros(_context, _word):
    def codegen(context, builder, _signature, args):
        return builder.ctlz(args[0], context.get_constant(types.boolean, True))

    return types.int64(types.int64), codegen


if TYPE_CHECKING or config.DISABLE_JIT:  # mypy and the interpreter see plain Python

    def trailing_zeros(word: int) -> int:
        """Zeros below the lowest set bit of a word that is not 0."""
        word = int(word) & int(_ALL)
        return (word & -word).bit_length() - 1

    def leading_zeros(word: int) -> int:
        """Zeros above the highest set bit of a word that is not 0."""
        return WORD_BITS - (int(word) & int(_ALL)).bit_length()

else:
    trailing_zeros = _trailing_zeros
    leading_zeros = _leading_zeros
