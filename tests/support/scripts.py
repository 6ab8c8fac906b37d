"""Many scripts on one model endpoint: each is a model of its own, so that tests do not use up each other's turns."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from tests.support.scripted_model import Request, Turn, error


@dataclass(slots=True)
class Script:
    """What one model answers, turn by turn."""

    #: The name that an assistant or a run asks for.
    model: str
    turns: Iterator[Turn]
    #: What it was asked, in order.
    requests: list[Request] = field(default_factory=list)


class Scripts:
    """The scripts of one endpoint; `next_turn` is what the endpoint answers with."""

    def __init__(self, name: str = "scripted") -> None:
        self.base_url = ""
        self._name = name
        self._numbers = count(1)
        self._scripts: dict[str, Script] = {}

    def add(self, *turns: Turn) -> Script:
        script = Script(f"{self._name}-{next(self._numbers)}", iter(turns))
        self._scripts[script.model] = script
        return script

    def next_turn(self, request: Request) -> Turn:
        script = self._scripts[request.body["model"]]
        script.requests.append(request)
        over = error(500, "The script has no more turns.", {"x-should-retry": "false"})
        return next(script.turns, over)
