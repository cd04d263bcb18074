"""Class labels as people give them: numbers, names, and the words "none" and "random"."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import UserError

ClassLabels = int | str | Sequence[int | str] | None
NO_CLASS_WORD, RANDOM_WORD = "none", "random"
RANDOM_CLASS = -1  # in a list of class numbers: a class sampled uniformly for each sample
LISTED = 20  # classes that a message names


@dataclass(frozen=True)
class Classes:
    """The classes of a model, and what labels mean for it.

    Attributes:
        names: empty without classes. A class that is itself called "none" or "random" wins over the word.
        dropout: whether the model was trained with label dropout, and so knows images without a class.
    """

    names: Sequence[str]
    dropout: bool

    @property
    def no_class(self) -> int:
        """The number that stands for "no class"."""
        return len(self.names)

    @property
    def has_no_class(self) -> bool:
        """Whether the model can sample without a class."""
        return self.dropout or not self.names

    def numbers(self, wanted: ClassLabels) -> list[int]:
        """The numbers of one or several labels; RANDOM_CLASS for None, as in `ImageGenerator.generate`.

        Raises:
            UserError: an unknown class (the message names the nearest), an empty list, "none" for a model without label dropout.
        """
        if wanted is None:
            return [self._random_class]
        if isinstance(wanted, str):
            return [self.number(wanted)]
        try:
            listed = list(wanted)  # type: ignore[arg-type]  # one number raises TypeError
        except TypeError:
            listed = [wanted]  # type: ignore[list-item]
        if not listed:
            raise UserError("class_labels is an empty list: give labels, or None for random ones")
        return [self.number(one) for one in listed]

    def editing_numbers(self, wanted: ClassLabels) -> list[int]:
        """As `numbers`, but None is no class where the model can sample without one: images that are edited have their own."""
        return [self.no_class] if wanted is None and self.has_no_class else self.numbers(wanted)

    def number(self, wanted: int | str) -> int:
        """The number of one label. Raises UserError as `numbers`."""
        if isinstance(wanted, str):
            if wanted in self.names:
                return list(self.names).index(wanted)
            if wanted == RANDOM_WORD:
                return self._random_class
            if wanted == NO_CLASS_WORD:
                return self._checked_no_class()
            if not wanted.removeprefix("-").isdecimal():
                raise UserError(f"unknown class '{wanted}': {self._nearest(wanted)}this model {self._known()}")
            wanted = int(wanted)
        try:
            number = operator.index(wanted)
        except TypeError as error:
            raise UserError(f"a class label is a number or a name, got {wanted!r}") from error
        if not 0 <= number < len(self.names):
            limits = f"give 0 to {len(self.names) - 1} or a name; " if self.names else ""
            raise UserError(f"label {number} is out of range: {limits}this model {self._known()}")
        return number

    def name(self, number: int) -> str:
        """The name of a class, or a word for no class and a random one; "" for a model without classes."""
        if not self.names:
            return ""
        return {self.no_class: NO_CLASS_WORD, RANDOM_CLASS: RANDOM_WORD}.get(number) or self.names[number]

    @property
    def _random_class(self) -> int:
        return RANDOM_CLASS if self.names else self.no_class

    def _checked_no_class(self) -> int:
        if not self.has_no_class:
            raise UserError(
                "this model was trained without label dropout and cannot sample without a class: give a label, or 'random'"
            )
        return self.no_class

    def _nearest(self, wanted: str) -> str:
        """A hint at the nearest class or word; empty where none is near."""
        by_lower = {name.lower(): name for name in (NO_CLASS_WORD, RANDOM_WORD, *self.names)}
        found = difflib.get_close_matches(wanted.lower(), by_lower, n=1)
        found = found or [name for name in by_lower if wanted and wanted.lower() in name]  # a part of a long name
        return f"the nearest one is '{by_lower[found[0]]}'; " if found else ""

    def _known(self) -> str:
        if not self.names:
            return "has no classes"
        more = f" and {len(self.names) - LISTED} more" if len(self.names) > LISTED else ""
        return f"has the classes {', '.join(self.names[:LISTED])}{more}"
