"""Hives and boxes: the names that frames live under."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .apiary import Apiary
    from .frame import Frame
    from .types import Schema


class Hive:
    """One hive (SQL: catalog), by its name; it need not exist yet."""

    __slots__ = ("_apiary", "_name")

    def __init__(self, apiary: Apiary, name: str) -> None:
        self._apiary = apiary
        self._name = name

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    def box(self, name: str) -> Box:
        """One of its boxes."""
        return self._apiary.box(f"{self._name}.{name}")

    def boxes(self) -> list[str]:
        """Full names of its boxes."""
        return self._apiary.boxes(self._name)

    def create(self, *, if_not_exists: bool = False) -> Hive:
        """Creates it."""
        return self._apiary.create_hive(self._name, if_not_exists=if_not_exists)

    def create_box(self, name: str, *, if_not_exists: bool = False) -> Box:
        """Creates a box in it."""
        return self._apiary.create_box(f"{self._name}.{name}", if_not_exists=if_not_exists)

    def drop(self, *, if_exists: bool = False, cascade: bool = False) -> None:
        """Drops it; with ``cascade`` also what is in it."""
        self._apiary.drop_hive(self._name, if_exists=if_exists, cascade=cascade)

    def exists(self) -> bool:
        """Whether there is such a hive."""
        return self._name in self._apiary.hives()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hive) and (self._apiary, self._name) == (other._apiary, other._name)

    def __hash__(self) -> int:
        return hash((self._apiary, self._name))

    def __repr__(self) -> str:
        return f"Hive({self._name!r})"


class Box:
    """One box (SQL: schema) of a hive, by its name; it need not exist yet."""

    __slots__ = ("_apiary", "_name")

    def __init__(self, apiary: Apiary, name: str) -> None:
        self._apiary = apiary
        self._name = name

    @property
    def name(self) -> str:
        """``hive.box``."""
        return self._name

    def frame(self, name: str) -> Frame:
        """One of its frames."""
        return self._apiary.frame(f"{self._name}.{name}")

    def frames(self) -> list[str]:
        """Full names of its frames and views."""
        return self._apiary.frames(self._name)

    def views(self) -> list[str]:
        """Full names of its views."""
        return self._apiary.views(self._name)

    def create(self, *, if_not_exists: bool = False) -> Box:
        """Creates it."""
        return self._apiary.create_box(self._name, if_not_exists=if_not_exists)

    def create_frame(
        self,
        name: str,
        schema: Schema,
        partition_by: str | Iterable[str] | None = None,
        *,
        if_not_exists: bool = False,
        cluster_by: str | Iterable[str] | None = None,
    ) -> Frame:
        """Creates a frame in it, as :meth:`Apiary.create_frame` does."""
        return self._apiary.create_frame(
            f"{self._name}.{name}", schema, partition_by, if_not_exists=if_not_exists, cluster_by=cluster_by
        )

    def drop(self, *, if_exists: bool = False, cascade: bool = False) -> None:
        """Drops it; with ``cascade`` also what is in it."""
        self._apiary.drop_box(self._name, if_exists=if_exists, cascade=cascade)

    def exists(self) -> bool:
        """Whether there is such a box."""
        return self._name in self._apiary.boxes(self._name.partition(".")[0])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and (self._apiary, self._name) == (other._apiary, other._name)

    def __hash__(self) -> int:
        return hash((self._apiary, self._name))

    def __repr__(self) -> str:
        return f"Box({self._name!r})"
