"""The stages that the tests of the inspector fill."""

from __future__ import annotations

import pytest

from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from tests.integration.inspector.scene import Scene
from tests.world import World


@pytest.fixture
def scene(limited: World, scope: Scope) -> Scene:
    """An empty stage with the types of ``TASKS`` and ``LIMITED``, and their limits."""
    return Scene(limited, scope)


@pytest.fixture
def operator(scene: Scene) -> Inspector:
    """The inspector of the scene."""
    return scene.inspector
