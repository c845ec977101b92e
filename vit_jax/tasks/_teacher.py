"""A frozen model below `teacher`, in the parameters and in the state of the one that learns from it.

A config freezes `teacher/.*`, so that the teacher costs neither gradient, optimizer slot nor average and is written to
disk once, and loads it with `init_from={"teacher": "PATH::"}`.
"""

from collections.abc import Mapping
from typing import Any

from vit_jax.tasks import Variables

TEACHER = "teacher"


def with_teacher(student: Variables, teacher: Mapping[str, Any]) -> Variables:
    """The student's variables, and below `teacher` all collections of its teacher, "params" among them."""
    below = {kind: {TEACHER: tree} for kind, tree in teacher.items()}
    params = {**student["params"], **below.pop("params", {})}
    state = student["model_state"]
    kinds = dict.fromkeys([*state, *below])
    return {"params": params, "model_state": {kind: {**state.get(kind, {}), **below.get(kind, {})} for kind in kinds}}


def apart(variables: Variables) -> tuple[Variables, dict[str, Any]]:
    """The student's variables, and the teacher's collections as its module takes them."""
    given = {"params": variables["params"], **variables["model_state"]}
    own = {kind: {name: x for name, x in tree.items() if name != TEACHER} for kind, tree in given.items()}
    params = own.pop("params")
    teacher = {kind: tree[TEACHER] for kind, tree in given.items() if TEACHER in tree}
    return {"params": params, "model_state": {kind: tree for kind, tree in own.items() if tree}}, teacher
