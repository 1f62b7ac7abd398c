"""A headless browser, for tests of what a person would see of a page."""

import base64
import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--virtual-time-budget=10000",
    ),
    # It need not, and may not, call home.
    *(
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ),
)

# Each page is shown in a frame of its own as it is, under its own security policy; the script looks at it from outside.
LOOK = """<!DOCTYPE html><meta charset="utf-8"><body><pre id="seen"></pre><script>
const views = VIEWS, seen = [];
const decode = text => new TextDecoder().decode(Uint8Array.from(atob(text), c => c.charCodeAt(0)));
// Letters of the longest word, which at 5 pixels each at least is not to be broken, unless it is very long.
const longest = text => Math.max(...text.split(/\\s+/).map(word => Math.min(word.length, 10)));
const show = ([page, width]) => new Promise(done => {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width: ${width}px; height: 900px; border: 0`;
  frame.srcdoc = decode(page);
  frame.onload = () => {
    const view = frame.contentWindow, content = view.document;
    seen.push({
      width: view.innerWidth,
      overflow: content.documentElement.scrollWidth - view.innerWidth,
      text: content.body.innerText,
      images: [...content.images].map(i => i.naturalWidth),
      squeezed: [...content.querySelectorAll("th, td, dt, dd, h3, p, li")]
        .filter(e => e.offsetParent && e.getBoundingClientRect().width < 5 * longest(e.innerText))
        .map(e => e.innerText),
      spilling: [...content.querySelectorAll("article, figure")]
        .filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText),
      background: view.getComputedStyle(content.body).backgroundColor,
    });
    frame.remove();
    done();
  };
  document.body.append(frame);
});
(async () => {
  for (const view of views) await show(view);
  document.getElementById("seen").textContent = JSON.stringify(seen);
})();
</script></body>"""


@dataclass(frozen=True)
class Seen:
    """A page as it is shown at some width: how far it runs over to the right, its text, natural widths of images, the
    texts that have no room, those of cards and figures whose content sticks out, and the colour of the background.
    """

    width: int
    overflow: int
    text: str
    images: list[int]
    squeezed: list[str]
    spilling: list[str]
    background: str


def look(views: Sequence[tuple[Path, int]], folder: Path) -> list[Seen]:
    """Shows each page at its width, in pixels, in one browser; `folder` is for files of the browser."""
    pages = [[base64.b64encode(page.read_bytes()).decode(), width] for page, width in views]
    wrapper = folder / "look.html"
    wrapper.write_text(LOOK.replace("VIEWS", json.dumps(pages)), encoding="utf-8")
    found = re.search(
        r'<pre id="seen">(.*?)</pre>', _run(folder, "--dump-dom", wrapper.as_uri()), re.DOTALL
    )
    assert found, "the browser shows no page"
    assert found[1], "a page was not loaded"
    return [Seen(**record) for record in json.loads(html.unescape(found[1]))]


def screenshot(page: Path, image: Path, *, dark: bool) -> None:
    """The top of the page, 1280 × 900."""
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    _run(image.parent, scheme, "--window-size=1280,900", f"--screenshot={image}", page.as_uri())


def _run(folder: Path, *arguments: str) -> str:
    assert BROWSER is not None
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
