"""Random queries over TPC-H tables: aggregates, joins of every kind, windows, set operations, subqueries, top-k."""

from __future__ import annotations

import random
from typing import NamedTuple


class Columns(NamedTuple):
    """Of one table, by what they are good for."""

    keys: list[str]
    numbers: list[str]
    words: list[str]


TABLES = {
    "lineitem": Columns(
        ["l_orderkey", "l_partkey", "l_suppkey", "l_linenumber"],
        ["l_quantity", "l_extendedprice", "l_discount"],
        ["l_returnflag", "l_linestatus", "l_shipmode", "l_shipdate"],
    ),
    "orders": Columns(
        ["o_orderkey", "o_custkey"], ["o_totalprice"], ["o_orderstatus", "o_orderpriority", "o_orderdate"]
    ),
    "customer": Columns(["c_custkey", "c_nationkey"], ["c_acctbal"], ["c_mktsegment"]),
    "part": Columns(["p_partkey"], ["p_retailprice", "p_size"], ["p_brand", "p_container"]),
    "partsupp": Columns(["ps_partkey", "ps_suppkey"], ["ps_availqty", "ps_supplycost"], []),
    "supplier": Columns(["s_suppkey", "s_nationkey"], ["s_acctbal"], ["s_name"]),
}
JOINS = [
    ("lineitem", "orders", "l_orderkey = o_orderkey"),
    ("orders", "customer", "o_custkey = c_custkey"),
    ("lineitem", "part", "l_partkey = p_partkey"),
    ("partsupp", "part", "ps_partkey = p_partkey"),
    ("lineitem", "supplier", "l_suppkey = s_suppkey"),
    ("partsupp", "supplier", "ps_suppkey = s_suppkey"),
]
SHAPES = 8


def queries(box: str, count: int, seed: int) -> list[str]:
    """Each gives the same rows whoever computes it, in no promised order."""
    chance = random.Random(seed)
    return [query(chance, box) for _ in range(count)]


def query(chance: random.Random, box: str) -> str:
    """One of them."""
    left, right, on = chance.choice(JOINS)
    table = chance.choice(list(TABLES))
    keys, numbers, words = TABLES[table]
    number, group = chance.choice(numbers), chance.choice([*words, keys[-1]])
    where = f"{chance.choice(numbers)} > {chance.choice([0, 5, 100, 1000])}"
    match chance.randrange(SHAPES):
        case 0:
            measures = f"count(*) AS n, sum({number}) AS s, min({number}) AS lo, max({number}) AS hi"
            return f"SELECT {group} AS g, {measures} FROM {box}.{table} WHERE {where} GROUP BY 1"
        case 1:
            distinct = f"count(DISTINCT {chance.choice(keys)}) AS d, avg({number}) AS m"
            return f"SELECT {distinct} FROM {box}.{table} WHERE {where}"
        case 2:
            kind = chance.choice(["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"])
            by = chance.choice([*TABLES[right].words, TABLES[right].keys[-1]])
            measures = f"count(*) AS n, sum({chance.choice(TABLES[left].numbers)}) AS s"
            return f"SELECT {by} AS g, {measures} FROM {box}.{left} {kind} {box}.{right} ON {on} GROUP BY 1"
        case 3:
            limit = chance.choice([1, 10, 1000])
            order = f"{number} DESC, {', '.join(keys)}"
            return f"SELECT {number}, {', '.join(keys)} FROM {box}.{table} ORDER BY {order} LIMIT {limit}"
        case 4:
            over = f"PARTITION BY {keys[-1]} ORDER BY {', '.join([*keys, number])}"
            ranked = f"SELECT {group} AS g, row_number() OVER ({over}) AS r FROM {box}.{table}"
            return f"SELECT g, sum(r) AS s FROM ({ranked}) GROUP BY 1"
        case 5:
            least = f"{chance.choice(TABLES[right].numbers)} > {chance.choice([10, 1000, 5000])}"
            exists = chance.choice(["EXISTS", "NOT EXISTS"])
            return (
                f"SELECT count(*) AS n FROM {box}.{left}"
                f" WHERE {exists} (SELECT 1 FROM {box}.{right} WHERE {on} AND {least})"
            )
        case 6:
            operation = chance.choice(["UNION", "UNION ALL", "INTERSECT", "EXCEPT"])
            other = f"SELECT {group} FROM {box}.{table} WHERE {chance.choice(numbers)} < 500"
            return f"SELECT {group} AS g FROM {box}.{table} WHERE {where} {operation} {other}"
        case _:
            average = f"(SELECT avg({number}) FROM {box}.{table})"
            rows = f"{box}.{table} WHERE {number} >= {average}"
            return f"SELECT {group} AS g, count(*) AS n FROM {rows} GROUP BY ROLLUP({group})"
