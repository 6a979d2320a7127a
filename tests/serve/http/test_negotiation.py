import pytest

from semseg_app.serve.http.negotiation import choose


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "image/png"),
        ("", "image/png"),
        ("*/*", "image/png"),
        ("application/json", "application/json"),
        ("application/*", "application/json"),
        ("APPLICATION/JSON", "application/json"),
        ("application/json, image/png", "image/png"),
        ("application/json, image/png;q=0.9", "application/json"),
        ("text/html, */*;q=0.1", "image/png"),
        ("image/png;q=0, */*", "application/json"),
        ("image/*;q=0.2, */*;q=0.1", "image/png"),
        ("image/png; q=nonsense", "image/png"),
        ("text/html", None),
        ("image/webp", None),
        ("image/png;q=0", None),
        ("nonsense", None),
    ],
)
def test_choose(accept, expected):
    assert choose(accept, ("image/png", "application/json")) == expected
