"""
Text: constants, integers and decimals as bytes in a preallocated buffer.

Every function writes at `at` and returns where its text ends. Some write up to SLACK_BYTES beyond that end, where the
next text comes to lie: a buffer must have so much more room than what is to be kept.

Fast here because constants are copied in blocks of 32 bytes whatever their length, and because eight digits
are made at once, by arithmetic on one 64-bit word that holds a digit in each byte. All words are
positive, so compiled and interpreted code agree. Slow: numbers above 10**8, which take a second and third word.
"""

from typing import TYPE_CHECKING, Final

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from ringpit.engine.bits import trailing_zeros
from ringpit.shards.kernels import kernel

BLOCK_BYTES: Final = 32
WORD_BYTES: Final = 8
SLACK_BYTES: Final = BLOCK_BYTES
WORD_DIGITS: Final = 100_000_000  # numbers below it fit the eight digits of a word
DIGITS_MAX: Final = 19  # of an int64
INTEGER_BYTES_MAX: Final = DIGITS_MAX + 1  # with a sign
DECIMAL_BYTES_MAX: Final = INTEGER_BYTES_MAX + 2  # with a point and a zero before it
POWERS: Final = np.array([10**i for i in range(DIGITS_MAX)], np.int64)
ASCII_ZEROS: Final = 0x3030_3030_3030_3030
ONE_DIGIT: Final = 1 << 56  # stops the search for leading zeros at the last digit
INT64_MIN: Final = -(1 << 63)
MINUS: Final = ord("-")
POINT: Final = ord(".")


def _item(context, builder, kind, array, index):
    """Where an array's item lies."""
    return builder.gep(make_array(kind)(context, builder, array).data, [index])


@intrinsic
def _copy_block(_context, out, _at, text, _begin):
    def codegen(context, builder, signature, args):
        target = _item(context, builder, signature.args[0], args[0], args[1])
        source = _item(context, builder, signature.args[2], args[2], args[3])
        cgutils.raw_memcpy(builder, target, source, ir.Constant(ir.IntType(64), BLOCK_BYTES), 1)
        return context.get_dummy_value()

    return types.void(out, types.int64, text, types.int64), codegen


@intrinsic
def _put_word(_context, out, _at, _word):
    def codegen(context, builder, signature, args):
        word = cgutils.alloca_once_value(builder, args[2])
        target = _item(context, builder, signature.args[0], args[0], args[1])
        cgutils.raw_memcpy(builder, target, word, ir.Constant(ir.IntType(64), WORD_BYTES), 1)
        return context.get_dummy_value()

    return types.void(out, types.int64, types.int64), codegen


if TYPE_CHECKING or config.DISABLE_JIT:  # mypy and the interpreter see plain Python

    def copy_block(out, at, text, begin):
        """Copy 32 bytes from one uint8 array to another."""
        out[at : at + BLOCK_BYTES] = text[begin : begin + BLOCK_BYTES]

    def put_word(out, at, word):
        """Store an int64 as eight bytes, least significant first, at any byte of a uint8 array."""
        out[at : at + WORD_BYTES] = np.frombuffer(
            int(word).to_bytes(WORD_BYTES, "little", signed=True), np.uint8
        )

else:
    copy_block, put_word = _copy_block, _put_word


@kernel
def put_text(text, begin, length, out, at):
    """Copy a constant text; `text` has SLACK_BYTES behind the last one."""
    copy_block(out, at, text, begin)
    copied = BLOCK_BYTES
    while copied < length:
        copy_block(out, at + copied, text, begin + copied)
        copied += BLOCK_BYTES
    return at + length


@kernel
def digits_word(value):
    """The eight digits of a number from 0 to 99,999,999, one a byte, the first one in the lowest byte."""
    high = value // 10_000
    word = high | (value - high * 10_000) << 32  # four digits in each half
    hundreds = ((word * 10_486) >> 20) & 0x7F_0000_007F
    word = hundreds | (word - 100 * hundreds) << 16  # two digits in each quarter
    tens = ((word * 103) >> 10) & 0x000F_000F_000F_000F
    return tens | (word - 10 * tens) << 8


@kernel
def put_padded(value, digits, out, at):
    """Write a number of 0 or more with exactly so many digits (at most 24), zeros first."""
    end = at + digits
    if digits > 16:
        top = value // (WORD_DIGITS * WORD_DIGITS)
        put_word(out, at, (digits_word(top) >> 8 * (24 - digits)) + ASCII_ZEROS)
        value -= top * (WORD_DIGITS * WORD_DIGITS)
        at = end - 16
        digits = 16
    if digits > 8:
        top = value // WORD_DIGITS
        put_word(out, at, (digits_word(top) >> 8 * (16 - digits)) + ASCII_ZEROS)
        value -= top * WORD_DIGITS
        at = end - 8
        digits = 8
    put_word(out, at, (digits_word(value) >> 8 * (8 - digits)) + ASCII_ZEROS)
    return end


@kernel
def put_natural(value, out, at):
    """Write an integer of 0 or more."""
    if value < WORD_DIGITS:
        word = digits_word(value)
        zeros = trailing_zeros(word | ONE_DIGIT) >> 3
        put_word(out, at, (word >> 8 * zeros) + ASCII_ZEROS)
        return at + WORD_BYTES - zeros
    digits = 9
    while digits < DIGITS_MAX and value >= POWERS[digits]:
        digits += 1
    return put_padded(value, digits, out, at)


@kernel
def put_integer(value, out, at):
    """Write an int64."""
    if value >= 0:
        return put_natural(value, out, at)
    out[at] = MINUS
    if value == INT64_MIN:  # has no positive twin
        at = put_natural(-(value // 10) - 1, out, at + 1)
        return put_natural(8, out, at)
    return put_natural(-value, out, at + 1)


@kernel
def put_decimal(units, decimals, out, at):
    """Write units / 10**decimals exactly, with all its decimals (0 to 18). `units` is above INT64_MIN."""
    if units < 0:
        out[at] = MINUS
        at += 1
        units = -units
    whole = units // POWERS[decimals]
    at = put_natural(whole, out, at)
    if decimals == 0:
        return at
    out[at] = POINT
    return put_padded(units - whole * POWERS[decimals], decimals, out, at + 1)
