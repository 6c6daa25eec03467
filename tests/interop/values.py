"""Types and values as all engines tell them, so that answers can be compared.

A type is a text in Spark's way (`bigint`, `array<string>`, `struct<city:string,zip:int>`), whoever was asked. A value is what
JSON has: decimals, dates and times as text, bytes as hex, a map as its pairs in order.
"""

import datetime
import decimal
import re
from typing import NamedTuple

import pyarrow as pa
from pyiceberg import types as ice

# ---- types ----

SIMPLE = {  # Spark's name: DuckDB's, Arrow's, PyIceberg's
    "boolean": ("BOOLEAN", pa.bool_(), ice.BooleanType()),
    "int": ("INTEGER", pa.int32(), ice.IntegerType()),
    "bigint": ("BIGINT", pa.int64(), ice.LongType()),
    "float": ("FLOAT", pa.float32(), ice.FloatType()),
    "double": ("DOUBLE", pa.float64(), ice.DoubleType()),
    "string": ("VARCHAR", pa.string(), ice.StringType()),
    "binary": ("BLOB", pa.binary(), ice.BinaryType()),
    "date": ("DATE", pa.date32(), ice.DateType()),
    "timestamp": ("TIMESTAMP WITH TIME ZONE", pa.timestamp("us", "UTC"), ice.TimestamptzType()),
    "timestamp_ntz": ("TIMESTAMP", pa.timestamp("us"), ice.TimestampType()),
}
OF_DUCK = {duck: name for name, (duck, _, _) in SIMPLE.items()}
OF_ICE = {str(i): name for name, (_, _, i) in SIMPLE.items()}


def parts(text):
    """`a:int,b:array<x,y>` at the commas of this level."""
    out, depth, begin = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "<(") - (c in ">)")
        if c == "," and depth == 0:
            out.append(text[begin:i])
            begin = i + 1
    return [*out, text[begin:]]


def nested(kind):
    """(array|struct|map|decimal, what stands in the brackets), or None for a simple type."""
    found = re.fullmatch(r"(array|struct|map)<(.*)>|(decimal)\((.*)\)", kind)
    return found and (found[1] or found[3], found[2] or found[4])


def duck_type(kind):
    match nested(kind):
        case None:
            return SIMPLE[kind][0]
        case "array", of:
            return duck_type(of) + "[]"
        case "map", of:
            return f"MAP({', '.join(map(duck_type, parts(of)))})"
        case "struct", of:
            return f"STRUCT({', '.join(f'{n} {duck_type(k)}' for n, k in (p.split(':', 1) for p in parts(of)))})"
    return kind.upper()


def arrow_type(kind):
    match nested(kind):
        case None:
            return SIMPLE[kind][1]
        case "array", of:
            return pa.list_(arrow_type(of))
        case "map", of:
            return pa.map_(*map(arrow_type, parts(of)))
        case "struct", of:
            return pa.struct([pa.field(n, arrow_type(k)) for n, k in (p.split(":", 1) for p in parts(of))])
        case "decimal", of:
            return pa.decimal128(*map(int, of.split(",")))


def of_duck(t):
    """The type of a DuckDB column."""
    children = dict(t.children) if t.id in ("list", "struct", "map", "decimal") else {}
    match t.id:
        case "list":
            return f"array<{of_duck(children['child'])}>"
        case "map":
            return f"map<{of_duck(children['key'])},{of_duck(children['value'])}>"
        case "struct":
            return f"struct<{','.join(f'{n}:{of_duck(c)}' for n, c in t.children)}>"
        case "decimal":
            return f"decimal({children['precision']},{children['scale']})"
    return OF_DUCK[str(t)]


def of_ice(t):
    """The type of a PyIceberg field."""
    match t:
        case ice.ListType():
            return f"array<{of_ice(t.element_type)}>"
        case ice.MapType():
            return f"map<{of_ice(t.key_type)},{of_ice(t.value_type)}>"
        case ice.StructType():
            return f"struct<{','.join(f'{f.name}:{of_ice(f.field_type)}' for f in t.fields)}>"
        case ice.DecimalType():
            return f"decimal({t.precision},{t.scale})"
    return OF_ICE[str(t)]


# ---- values ----


def canonical(v):
    match v:
        case datetime.datetime():
            text = v.astimezone(datetime.timezone.utc) if v.tzinfo else v
            return text.strftime("%Y-%m-%dT%H:%M:%S.%f") + ("Z" if v.tzinfo else "")
        case datetime.date():
            return v.isoformat()
        case decimal.Decimal():
            return format(v, "f")
        case bytes() | bytearray() | memoryview():
            return bytes(v).hex()
        case list() if v and all(isinstance(p, tuple) for p in v):  # a map, as Arrow gives it
            return sorted([canonical(k), canonical(x)] for k, x in v)
        case list() | tuple():
            return [canonical(x) for x in v]
    return v


def of_column(v, kind):
    """A value of a column of this type: a struct as the list of its values, a map as its sorted pairs."""
    found = nested(kind)
    if v is None or not found or found[0] == "decimal":
        return canonical(v)
    if found[0] == "array":
        return [of_column(x, found[1]) for x in v]
    if found[0] == "struct":
        fields = [p.split(":", 1) for p in parts(found[1])]
        return [of_column(v[n] if isinstance(v, dict) else v[i], k) for i, (n, k) in enumerate(fields)]
    key, value = parts(found[1])
    return sorted([of_column(k, key), of_column(x, value)] for k, x in (v.items() if isinstance(v, dict) else v))


class State(NamedTuple):
    """A table as one engine sees it."""

    columns: tuple  # of (name, type)
    rows: list
    snapshots: int


def state(columns, rows, snapshots):
    kinds = [k for _, k in columns]
    rows = [[of_column(v, k) for v, k in zip(r, kinds)] for r in rows]
    return State(tuple(map(tuple, columns)), sorted(rows, key=lambda r: [(v is not None, str(v)) for v in r]), snapshots)


# ---- literals ----


def text_of(v):
    return "'" + str(v).replace("'", "''") + "'"


def stamp(v):
    return v.strftime("%Y-%m-%d %H:%M:%S.%f") + ("+00:00" if v.tzinfo else "")


def duck_literal(v, kind):
    return f"CAST({duck_bare(v, kind)} AS {duck_type(kind)})"


def duck_bare(v, kind):
    match v:
        case None:
            return "NULL"
        case bool() | int() | float() | decimal.Decimal():
            return str(v)
        case bytes():
            return f"unhex('{v.hex()}')"
        case datetime.datetime():
            return text_of(stamp(v))
        case list():
            return f"[{', '.join(duck_bare(x, None) for x in v)}]"
        case dict() if kind.startswith("map"):
            return f"MAP {{{', '.join(f'{duck_bare(k, None)}: {duck_bare(x, None)}' for k, x in v.items())}}}"
        case dict():
            return f"{{{', '.join(f'{text_of(k)}: {duck_bare(x, None)}' for k, x in v.items())}}}"
    return text_of(v)


def spark_literal(v, kind):
    return f"CAST({spark_bare(v, kind)} AS {kind})"


def spark_bare(v, kind):
    match v:
        case None:
            return "NULL"
        case bool() | int():
            return str(v)
        case float():
            return f"{v!r}D"
        case decimal.Decimal():
            return f"{v}BD"
        case bytes():
            return f"X'{v.hex()}'"
        case datetime.datetime():
            return ("TIMESTAMP" if v.tzinfo else "TIMESTAMP_NTZ") + text_of(stamp(v))
        case list():
            return f"array({', '.join(spark_bare(x, None) for x in v)})"
        case dict() if kind.startswith("map"):
            return f"map({', '.join(f'{spark_bare(k, None)}, {spark_bare(x, None)}' for k, x in v.items())})"
        case dict():
            return f"named_struct({', '.join(f'{text_of(k)}, {spark_bare(x, None)}' for k, x in v.items())})"
    # Spark's texts know backslashes; none of the tests' has one.
    return "'" + str(v).replace("'", "\\'") + "'"


def arrow_table(columns, rows):
    schema = pa.schema([pa.field(n, arrow_type(k)) for n, k in columns])
    wrap = lambda v, k: list(v.items()) if k.startswith("map") and v is not None else v
    return pa.table({n: pa.array([wrap(r[i], k) for r in rows], arrow_type(k)) for i, (n, k) in enumerate(columns)}, schema=schema)
