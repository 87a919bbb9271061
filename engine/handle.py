"""
How kernels get the tables: one pointer, instead of twenty arrays of seven words each.

    Tables (Python) ──address──> descriptor: for each array its data, length, ... as numba lays them out
    kernel: t.orders ──> loads from the descriptor, which never change, so they are loaded once and kept

To numba a NamedTuple of arrays is its members, one by one: a call of a kernel by a kernel copied 150 words through the
stack, and the compiler had to look at each of them at each call. As a type of its own it is passed as one address. The code
of every kernel stays the same, `t.orders[slot]["id"]`, and interpreted it is a plain attribute.

Fast here because the descriptor is two cache lines that are always warm, and marked as unchanging. Slow nowhere: what is loaded
from it would otherwise be loaded from the stack.

The layout of numba's array structure (meminfo, parent, nitems, itemsize, data, shape, strides) is not public; a test
(tests/engine/test_handle.py) compares every array as a kernel sees it with what Python sees.
"""

import operator
from typing import Any, Final

import numpy as np
from numba import config, types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    NativeValue,
    infer_getattr,
    lower_getattr_generic,
    models,
    register_model,
    typeof_impl,
    unbox,
)
from numba.np.arrayobj import load_item, make_array, store_item
from numba.np.numpy_support import from_dtype

WORD_BYTES: Final = 8
DESCRIPTOR_WORDS: Final = 4  # of each array: data, items, and its two lengths
DATA, ITEMS, SHAPE = range(3)


class TableType(types.Array):  # type: ignore[misc]  # numba is not typed
    """
    An array of a handle. Its rows are counted from its beginning only.

    Numba lets a negative index count from the end, and to do so compares every index with 0 and looks up the length; our slots
    are never negative where a row is read. With NUMBA_BOUNDSCHECK=1 an index out of range is an IndexError, negative ones too.
    """

    def __init__(self, dtype: Any, dimensions: int) -> None:
        """A contiguous array."""
        super().__init__(dtype, dimensions, "C", name=f"Table({dtype}, {dimensions}d)")


register_model(TableType)(models.ArrayModel)


def _item_pointer(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Where the item of (table, index) lies; the index is one integer or a tuple of them."""
    table_type, index_type = signature.args[:2]
    table = make_array(table_type)(context, builder, args[0])
    kinds = index_type.types if isinstance(index_type, types.BaseTuple) else (index_type,)
    packed = cgutils.unpack_tuple(builder, args[1]) if isinstance(index_type, types.BaseTuple) else [args[1]]
    row = context.get_constant(types.intp, 0)
    for axis, (kind, number) in enumerate(zip(kinds, packed, strict=True)):
        length = cgutils.unpack_tuple(builder, table.shape)[axis]
        place = context.cast(builder, number, kind, types.intp)
        if config.BOUNDSCHECK:
            with builder.if_then(builder.icmp_unsigned(">=", place, length), likely=False):
                rule = f"an index of a table of {table_type.dtype} is out of its range"
                context.call_conv.return_user_exc(builder, IndexError, (rule,))
        row = builder.add(builder.mul(row, length), place)
    return builder.gep(table.data, [row], inbounds=True)


def _get_item(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Load the item, or for a record give its address."""
    return load_item(context, builder, signature.args[0], _item_pointer(context, builder, signature, args))


def _set_item(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Store the item."""
    table_type, _, value_type = signature.args
    value = context.cast(builder, args[2], value_type, table_type.dtype)
    store_item(context, builder, table_type, value, _item_pointer(context, builder, signature, args))
    return context.get_dummy_value()


for index_kind in (types.Integer, types.BaseTuple):
    lower_builtin(operator.getitem, TableType, index_kind)(_get_item)
    lower_builtin(operator.setitem, TableType, index_kind, types.Any)(_set_item)


class HandleType(types.Type):  # type: ignore[misc]  # numba is not typed
    """
    Numba's type of a table of arrays that is passed as one address.

    Args:
        name: For messages and machine code; one name, one set of fields.
        fields: (name, dtype, dimensions) of each array, in the order of the descriptor.
    """

    def __init__(self, name: str, fields: tuple[tuple[str, np.dtype, int], ...]) -> None:
        """Give each field its array type."""
        self.arrays = {field: TableType(from_dtype(dtype), count) for field, dtype, count in fields}
        self.places = {field: place for place, (field, _, _) in enumerate(fields)}
        super().__init__(name=name)


register_model(HandleType)(models.OpaqueModel)


@infer_getattr
class HandleAttributes(AttributeTemplate):  # type: ignore[misc]  # numba is not typed
    """Attributes of a handle are its arrays."""

    key = HandleType

    def generic_resolve(self, handle: HandleType, name: str) -> Any:
        """Type of a field, or None if there is none of that name."""
        return handle.arrays.get(name)


@lower_getattr_generic(HandleType)
def _load_array(context: Any, builder: Any, handle: HandleType, value: Any, name: str) -> Any:
    """An array structure out of the descriptor."""
    array_type = handle.arrays[name]
    word = context.get_value_type(types.intp)
    words = builder.bitcast(value, word.as_pointer())
    unchanging = builder.module.add_metadata([])

    def load(place: int) -> Any:
        at = handle.places[name] * DESCRIPTOR_WORDS + place
        loaded = builder.load(builder.gep(words, [context.get_constant(types.intp, at)]))
        loaded.set_metadata("invariant.load", unchanging)
        return loaded

    array = make_array(array_type)(context, builder)
    itemsize = context.get_abi_sizeof(context.get_data_type(array_type.dtype))
    shape = [load(SHAPE + axis) for axis in range(array_type.ndim)]
    strides = [context.get_constant(types.intp, itemsize)]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(length, strides[0]))
    array.meminfo = cgutils.get_null_value(array.meminfo.type)
    array.parent = cgutils.get_null_value(array.parent.type)
    array.nitems = load(ITEMS)
    array.itemsize = context.get_constant(types.intp, itemsize)
    array.data = builder.inttoptr(load(DATA), array.data.type)
    array.shape = cgutils.pack_array(builder, shape)
    array.strides = cgutils.pack_array(builder, strides)
    return array._getvalue()  # noqa: SLF001 - numba's own way to end a structure


@unbox(HandleType)
def _unbox_handle(_handle: HandleType, handed: Any, c: Any) -> NativeValue:
    """The address that the Python object knows."""
    number = c.pyapi.object_getattr_string(handed, "address")
    address = c.pyapi.long_as_ulonglong(number)
    c.pyapi.decref(number)
    return NativeValue(c.builder.inttoptr(address, c.context.get_value_type(_handle)))


def describe(arrays: tuple[np.ndarray, ...]) -> np.ndarray:
    """
    The descriptor of arrays, in the order of a HandleType's fields.

    Raises ValueError for an array that is not contiguous; the arrays must live as long as the descriptor is used.
    """
    words = np.zeros((len(arrays), DESCRIPTOR_WORDS), np.int64)
    for row, array in zip(words, arrays, strict=True):
        if not array.flags.c_contiguous:
            raise ValueError(f"arrays of a handle must be contiguous, was one of shape {array.shape}")
        row[DATA], row[ITEMS] = array.ctypes.data, array.size
        row[SHAPE : SHAPE + array.ndim] = array.shape
    return words


def passed_as_address(kind: type, name: str, fields: tuple[tuple[str, np.dtype, int], ...]) -> None:
    """Have numba pass objects of a class, which must have an attribute `address`, as a handle."""
    handle = HandleType(name, fields)
    typeof_impl.register(kind)(lambda _value, _context: handle)
