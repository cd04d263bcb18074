import importlib.metadata
import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")

import app
from app.page import build_page
from common.errors import UserError


def parts_of(page) -> dict:
    return {block.elem_id: block for block in page.blocks.values() if getattr(block, "elem_id", None)}


def test_every_control_has_a_label(service):
    for name, part in parts_of(build_page(service)).items():
        if part.get_block_name() in ("dropdown", "slider", "number", "checkbox", "file", "image", "gallery"):
            assert part.label, f"{name} has no label"


def test_labels_are_the_classes_of_the_model(service):
    parts = parts_of(build_page(service))
    assert [name for name, _ in parts["label"].choices] == ["none", "random", "round", "long"]
    assert [name for name, _ in parts["grid-label"].choices] == ["random", "each in turn", "none", "round", "long"]
    service.generator.class_names, service.generator.guided = [], False
    parts = parts_of(build_page(service))
    assert not parts["label"].visible
    assert not parts["grid-label"].visible


def load_package():
    """Run app/__init__.py again, under another name."""
    spec = importlib.util.spec_from_file_location("another_app", app.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match=r"gradio>=6\.31,<7: run pip install -e '\.\[app\]'") as caught:
        load_package()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "works"), [("6.31.0", True), ("6.40rc1", True), ("6.30.9", False), ("5.50.0", False), ("7.0.0", False)]
)
def test_only_the_supported_versions_of_gradio_are_used(version, works, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    if works:
        load_package()
    else:
        with pytest.raises(UserError, match=f"{version} is installed"):
            load_package()


def test_the_supported_versions_are_those_of_the_project_file():
    assert f'"{app.SUPPORTED_GRADIO}"' in Path("pyproject.toml").read_text()


def test_gradio_writes_no_interface_file_into_the_package():
    assert not list(Path(app.__file__).parent.glob("*.pyi"))
