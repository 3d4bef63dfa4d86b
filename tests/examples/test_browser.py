"""The browser example: in Chromium, the page writes what Python writes. `make browser-test`."""

import functools
import importlib.util
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from exlstm.data import ByteTokenizer
from exlstm.export import export_language_model
from exlstm.models import XLSTMConfig, XLSTMLanguageModel, generate

pytestmark = pytest.mark.browser

EXAMPLE = Path(__file__).parents[2] / "examples" / "browser"
TOKENIZER = ByteTokenizer()
END = TOKENIZER.end_of_document
# Characters of one to four bytes; two documents are longer than what is written, one is shorter.
DOCUMENTS = (
    "The quick brown fox jumps over the lazy dog, and what a model knows by heart it goes on with "
    "from its first words to its last, however long the way is from here to there.",
    "Größe ≥ 3 µm: naïve Gäste im Café zählen 12 € für zwei Stück Käsekuchen, müßig über Flüsse, "
    "Bäume und Straßen redend; später hören wir Übungen für Flöte.",
    "日本語の文字は三つのバイト 🙂 です。",
)
MAX_TOKENS = 100


def require(what: str, found: object) -> None:
    """A browser that is named must be there, with all it needs; without a name it may lack."""
    if not found:
        missing = pytest.fail if "CHROMIUM" in os.environ else pytest.skip
        missing(f"{what} is missing: `make browser-test` sets it up")


@pytest.fixture(scope="module")
def model():
    """Knows the documents by heart, so that greedy text is text, and far from ties."""
    torch.manual_seed(0)
    model = XLSTMLanguageModel(XLSTMConfig(vocab_size=257, d_model=64, pattern="ms"))
    # The first is there twice: an empty prompt then begins it, instead of choosing among equals.
    texts = (DOCUMENTS[0], *DOCUMENTS)
    documents = [torch.tensor([END, *TOKENIZER.encode(text), END]) for text in texts]
    rows = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=END)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        logits, _ = model(rows[:, :-1])
        F.cross_entropy(logits.mT, rows[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    """Of a server of the page and the exported model."""
    require("examples/browser/node_modules", (EXAMPLE / "node_modules").is_dir())
    folder = tmp_path_factory.mktemp("site")
    for name in ("index.html", "generate.js", "node_modules"):
        (folder / name).symlink_to(EXAMPLE / name)
    export_language_model(model, TOKENIZER, folder / "model")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    require("Chromium", chromium)
    require("playwright", importlib.util.find_spec("playwright"))
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(browser, address):
    page = browser.new_page()
    page.goto(address)
    wait_until_ready(page)
    return page


def wait_until_ready(page):
    page.wait_for_function("!document.getElementById('generate').disabled")


def write(page, prompt, temperature):
    """What the page writes after the prompt."""
    page.fill("#prompt", prompt)
    page.fill("#tokens", str(MAX_TOKENS))
    page.fill("#temperature", str(temperature))
    page.click("#generate")
    wait_until_ready(page)
    assert page.text_content("#read") == prompt
    return page.text_content("#written")


def greedy(model, prompt):
    """What Python writes after the prompt, and how far the closest choice was from a tie."""
    read = [END, *TOKENIZER.encode(prompt).tolist()]
    tokens = list(generate(model, read, MAX_TOKENS, temperature=0, stop={END}))
    with torch.inference_mode():
        logits, _ = model(torch.tensor([[*read, *tokens]]))
    best, second = logits[0, len(read) - 1 :].topk(2).values.unbind(-1)
    return TOKENIZER.decode(tokens), (best - second).min()


@pytest.mark.parametrize(
    "prompt", ["The qu", "Größe ≥ 3", "日本", "日本語の文字は三つのバイト 🙂", "The Größe", ""]
)
def test_the_page_writes_what_python_writes(page, model, prompt):
    text, gap = greedy(model, prompt)
    assert gap > 0.1, "a choice is so close that rounding may decide it"
    assert write(page, prompt, temperature=0) == text


def test_a_temperature_draws(browser, address, model):
    page = browser.new_page()
    page.goto(address)
    wait_until_ready(page)
    page.evaluate("Math.random = () => 0.5")  # the likely token, which has more than half
    assert write(page, "The qu", temperature=0.5) == greedy(model, "The qu")[0]
    page.evaluate("Math.random = () => 0")  # the first token, however unlikely
    assert write(page, "The qu", temperature=0.5) == MAX_TOKENS * "\0"


def test_the_page_asks_only_its_own_server(browser, address):
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    wait_until_ready(page)
    assert f"{address}/model/step.onnx" in asked
    assert [url for url in asked if not url.startswith((f"{address}/", "data:"))] == []


def test_what_is_missing_is_said(browser, address):
    page = browser.new_page()
    page.route("**/export.json", lambda route: route.fulfill(status=404))
    page.goto(address)
    page.wait_for_function("document.getElementById('status').textContent.includes('404')")
