"""The pages that a browser gets before it is let in. No I/O."""

from __future__ import annotations

from html import escape
from string import Template
from urllib.parse import parse_qs

STYLE_PATH = "/login.css"
STYLE = b"""\
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
body { max-width: 26rem; margin: 12vh auto 0; padding: 0 1rem }
h1 { font-size: 1.1rem; font-weight: 600 }
input, button { font: inherit; box-sizing: border-box; width: 100%; padding: .5rem; margin: .25rem 0 .75rem }
.wrong { font-weight: 600 }
"""

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
$head<title>$title</title>
<link rel="stylesheet" href="/login.css">
<main>
<h1>$title</h1>
$body
</main>
</html>
""")
_FORM = Template("""\
$why<form method="post" action="/login">
<input type="hidden" name="next" value="$next">
<label for="token">Admin token (ADMIN_TOKEN of the host)</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Log in</button>
</form>
<p><a href="$next">Logged in already? Go on.</a></p>""")


def login_page(target: str, why_not: str = "") -> bytes:
    """Return the page that asks for the token, and goes on to `target`; `why_not` the last one was taken."""
    why = f'<p class="wrong" role="alert">{escape(why_not)}</p>\n' if why_not else ""
    return _page("Log in to the host", _FORM.substitute(why=why, next=escape(local(target))))


def entered_page() -> bytes:
    """Return the page of a one-time address, which goes on to the first page.

    A redirect would not do: where a link of another site's page led here, browsers send no SameSite cookie
    along.
    """
    return _page(
        "Logged in",
        '<p><a href="/">Go on to the host</a></p>',
        '<meta http-equiv="refresh" content="0; url=/">\n',
    )


def message_page(title: str, text: str) -> bytes:
    """Return a page that says something."""
    return _page(title, f"<p>{escape(text)}</p>")


def form_fields(body: bytes) -> tuple[str, str]:
    """Return the token and the target of the login form, empty where they are missing. Raises: ValueError."""
    fields = parse_qs(body.decode("ascii"), max_num_fields=10)
    return fields.get("token", [""])[0].strip(), local(fields.get("next", ["/"])[0])


def local(target: str) -> str:
    """Return a target if it is a path of this server, else the first page."""
    plain = target.isascii() and target.isprintable() and "\\" not in target
    return target if plain and target.startswith("/") and not target.startswith("//") else "/"


def _page(title: str, body: str, head: str = "") -> bytes:
    return _PAGE.substitute(title=escape(title), body=body, head=head).encode()
