"""What the tests of students share."""

import torch

from stillhouse.models.anatomy import layers_prefix


def assert_copied(student, teacher, kept):
    """Every weight of the student is its teacher's bit for bit: of these layers, and of all that is no layer."""
    prefix, theirs, ours = layers_prefix(teacher), teacher.state_dict(), student.state_dict()
    for number, layer in enumerate(kept):
        of_layer = {name: weight for name, weight in theirs.items() if name.startswith(f"{prefix}{layer}.")}
        assert of_layer
        for name, weight in of_layer.items():
            assert torch.equal(ours.pop(name.replace(f"{prefix}{layer}.", f"{prefix}{number}.")), weight)
    rest = {name: weight for name, weight in theirs.items() if not name.startswith(prefix)}
    assert ours.keys() == rest.keys()
    assert all(torch.equal(ours[name], weight) for name, weight in rest.items())
