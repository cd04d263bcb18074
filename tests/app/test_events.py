from concurrent.futures import CancelledError

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page's tests need gradio: pip install -e '.[app]'")
import gradio as gr

from app.events import on_page
from app.service import StoppedError, Update
from app.status import FAILED
from common.errors import UserError


def failing(error):
    yield Update("begun", seed=7)
    raise error


def test_updates_become_values_of_the_page():
    image = Image.new("L", (8, 8))
    updates = [Update("a", [], [], 7), Update("b", [image]), Update("c", [], ["/x.png"])]
    values = list(on_page(iter(updates), len))
    assert values[0] == ("a", "", 0, 7)
    assert values[1][1].count("<img") == 1 and "data:image/png" in values[1][1]
    assert (values[1][2], values[1][3]) == (gr.skip(), gr.skip())
    assert values[2][:3] == ("c", "", 1)


def test_a_mistake_is_shown_and_an_unexpected_error_is_logged(caplog):
    *_, (status, *rest) = on_page(failing(UserError("a <b>bold</b>\nmistake")), list)
    assert "a &lt;b&gt;bold&lt;/b&gt; mistake" in status
    assert 'role="alert"' in status
    assert rest == [gr.skip()] * 3, "the rest of the page stays as it is"
    assert not caplog.records
    *_, (status, *_) = on_page(failing(RuntimeError("secret of the server")), list)
    assert FAILED in status
    assert "secret" not in status
    assert "secret of the server" in caplog.text


@pytest.mark.parametrize("error", [StoppedError(), CancelledError()])
def test_the_end_of_the_server_is_no_error(error, caplog):
    assert len(list(on_page(failing(error), list))) == 1
    assert not caplog.records
