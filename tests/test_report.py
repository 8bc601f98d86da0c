"""The report: one page from small made tables, read back as HTML; in a browser where there is one."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from report_inputs import SCRIPT, Made, Page, evaluation, score_row, tone, verdict
from stillsmall import audio, config, report
from stillsmall.reporting import clips, curves, examples, figures, intake, results, words

SECTIONS = ["headline", "results", "speed", "data", "labels", "judgement", "training", "measures", "rejected", "tested"]


@pytest.fixture
def made(tmp_path: Path, root: Path) -> Made:
    return Made(tmp_path, config.load(root / "params.yaml"))


def sounds(page: Page) -> list[bytes]:
    return [base64.b64decode((a["src"] or "").removeprefix(clips.PREFIX), validate=True) for a in page.all("audio")]


def test_the_page_has_its_sections_in_order_and_every_tag_closes(made: Made) -> None:
    page = made.page()
    assert page.open == []
    assert [a["id"] for a in page.all("section")] == SECTIONS
    assert {a["href"] for a in page.all("a")} == {"#main", *(f"#{name}" for name in SECTIONS[1:])}
    assert Counter(a["id"] for _, a in page.found if "id" in a).most_common(1)[0][1] == 1
    assert "12.5 % [10.5, 14.5]" in page.words
    assert "+5.0 points [1.0, 9.0]" in page.words
    assert "Timings were taken at 03:04 UTC on 2 January 2026, on x86_64, 2 cores, 2 threads used, no GPU" in page.words
    assert "3 of 1,983 items went to quarantine" in page.words


def test_text_from_data_is_escaped(made: Made) -> None:
    html = made.html()
    assert len(Page(html).all("script")) == 1
    assert "alert('x')" not in html
    assert "&lt;script&gt;alert(&#39;x&#39;)" in html


def test_names_from_data_are_escaped_too(made: Made) -> None:
    made.reject([score_row(SCRIPT, domain=SCRIPT, source=SCRIPT, language=SCRIPT, verdicts=[verdict(SCRIPT)])])
    page = made.page()
    assert len(page.all("script")) == 1
    assert page.all("article", data_domain=SCRIPT)
    assert [a["value"] for a in page.all("option")] == ["", SCRIPT, "", SCRIPT]
    assert page.all("dd", lang="und", dir="ltr")


def test_the_page_asks_the_network_for_nothing(made: Made) -> None:
    page = made.page()
    for _, attributes in page.found:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    (policy,) = page.all("meta", http_equiv="x") or [
        a for a in page.all("meta") if "content" in a and "http-equiv" in a
    ]
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_the_same_inputs_give_the_same_bytes(made: Made) -> None:
    first = made.html()
    assert made.html() == first
    assert str(made.inputs.split.parent) not in first


def test_audio_decodes_to_the_stretch_that_was_labelled(made: Made) -> None:
    seconds = Counter(len(sf.read(io.BytesIO(flac))[0]) / audio.SAMPLE_RATE for flac in sounds(made.page()))
    assert seconds == {1.0: 5, 1.5: 1}  # u1, u2, u3 and two test utterances; 0.5 s to 2.0 s of the long one


def test_a_stretch_is_cut_to_the_sample(made: Made) -> None:
    stretch = clips.Stretch("long", 0.5, 2.0)
    heard = audio.decode_flac(clips.fetch(made.inputs.split, [stretch])[stretch])
    assert np.abs(heard - tone(4.0)[8000:32000]).max() <= 1 / audio.FULL_SCALE


@pytest.mark.parametrize("megabytes", [0.0, 0.02, 0.05, 8.0])
def test_audio_stays_within_its_room(made: Made, megabytes: float) -> None:
    made.setting(audio_mb=megabytes)
    page = made.page()
    assert sum(len(a["src"] or "") for a in page.all("audio")) <= megabytes * 1_000_000
    assert len(page.all("article")) == 6
    assert ("Without audio." in page.words) == ("report.audio_mb" in page.words) == (len(sounds(page)) < 6)


def test_examples_stop_at_the_number_that_is_set(made: Made) -> None:
    made.setting(examples=2)
    assert "2 of 4 rejected labels" in made.page().words


def test_examples_are_spread_over_rules_then_domains() -> None:
    rows = [score_row(f"a{n}", verdicts=[verdict("agreement")]) for n in range(30)]
    rows += [score_row(f"b{n}", verdicts=[verdict("agreement")], domain="loud") for n in range(3)]
    rows += [score_row("c", verdicts=[verdict("repetition", True)])]
    chosen = examples.spread(rows, 5)
    assert Counter(row["verdicts"][0]["rule"] for row in chosen) == {"agreement": 4, "repetition": 1}
    assert Counter(row["domain"] for row in chosen) == {"quiet": 3, "loud": 2}
    assert examples.spread(rows[::-1], 5) == chosen


def test_foreign_text_says_its_language_and_direction(made: Made) -> None:
    assert made.page().all("dd", lang="ar", dir="rtl")
    assert words.lang_of("zz not a tag") == "und"


def test_without_intervals_the_page_says_so(made: Made) -> None:
    found = evaluation(low=None, high=None, clusters=2)
    for name in ("teacher", "student"):
        found[name]["interval"] |= {"low": None, "high": None, "clusters": 2}
    made.metric("evaluate", found)
    page = made.page()
    assert "No interval: the test set has 2 speakers or recordings, and an interval from fewer than 5" in page.words
    assert "None" not in page.words


def test_without_rejected_labels_the_page_says_so(made: Made) -> None:
    made.reject([])
    nothing = {"labels": 0, "hours": 0.0}
    made.metric("filter", {"kept": {"labels": 6, "hours": 0.5}, "rejected": nothing, "reasons": {}, "domains": {}})
    page = made.page()
    assert "No label was rejected, so there is nothing to listen to here." in page.words
    assert "all were kept, none was rejected" in page.words
    assert not page.all("select")


def test_optional_inputs_may_be_absent(made: Made) -> None:
    for name in ("prepare.json", "speed.json", "distill.json", "training.csv"):
        (made.inputs.metrics / name).unlink()
    said = made.page().words
    for sentence in ("no record of what prepare took in", "No speed was measured", "no training log to draw"):
        assert sentence in said


def test_what_is_needed_is_named_where_it_is_missing(made: Made) -> None:
    (made.inputs.metrics / "evaluate.json").unlink()
    with pytest.raises(report.ReportError, match=r"evaluate\.json: no such file"):
        made.html()


def test_tables_have_captions_and_scopes(made: Made) -> None:
    page = made.page()
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    assert len(page.all("th", aria_sort="ascending")) == len(page.all("table", class_="sortable")) > 5


def test_curves_are_svg_with_text_and_the_pages_colours(made: Made) -> None:
    found = curves.charts(curves.read(made.inputs.metrics / "training.csv"))
    assert [chart.title for chart in found] == ["Loss and its parts", "Norm of the gradient", "Learning rate"]
    assert "loss from 2.5 to 1.25, ce from 1.5 to 0.75, kl from 0.5 to 0.5" in found[0].summary
    assert "var(--series-3)" in found[0].svg
    assert "<text" in found[0].svg
    assert "#0102" not in found[0].svg
    assert not any(word in found[0].svg for word in ("http://purl", "<metadata", "Date"))


def kinds(reference: str, heard: str, language: str = "en") -> list[tuple[str, str, str]]:
    return [
        (m.kind, m.reference if m.kind != "same" else "", m.heard) for m in words.compare(reference, heard, language)
    ]


def test_marks_ignore_case_and_punctuation_but_show_them() -> None:
    assert kinds("A still, small voice.", "a still small voice") == [("same", "", "a still small voice")]
    assert kinds("yes", "yes - !") == [("same", "", "yes - !")]


def test_marks_of_words_put_in_left_out_and_replaced() -> None:
    assert kinds("one two three", "one too three four five") == [
        ("same", "", "one"), ("sub", "two", "too"), ("same", "", "three"), ("ins", "", "four five"),
    ]  # fmt: skip
    assert kinds("one two three", "") == [("del", "one two three", "")]


def test_marks_take_a_chinese_character_as_a_word() -> None:
    assert kinds("我要 apple", "我不要 apple", "zh") == [
        ("same", "", "我"),
        ("ins", "", "不"),
        ("same", "", "要 apple"),
    ]


def test_scripts_without_spaces_are_put_together_again() -> None:
    assert kinds("你唱歌。", "你唱歌 。", "zh") == [("same", "", "你唱歌。")]
    assert kinds("うたう。", "うたう。", "ja") == [("same", "", "うたう。")]
    assert kinds("要参加 lunch。", "要参加 lunch。", "zh") == [("same", "", "要参加 lunch。")]
    assert kinds("我 like 唱歌。", "我 like 唱歌。", "en") == [("same", "", "我 like 唱歌。")]


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (figures.percent(0.1234), "12.3 %"),
        (figures.percent(None), "–"),
        (figures.points(-0.021), "−2.1 points"),
        (figures.points(0.0001), "0.0 points"),
        (figures.rate_with_bounds({"value": 0.123, "low": 0.101, "high": 0.148}), "12.3 % [10.1, 14.8]"),
        (figures.hours(0.001), "<0.01"),
        (figures.moment("yesterday"), "yesterday"),
        (examples.value_of("agreement", "0.625"), "62.5 %"),
        (examples.value_of("confidence", "-1.5"), "−1.5 nats per token"),
        (examples.value_of("repetition", "true"), ""),
    ],
)
def test_figures_are_shown_as_people_read_them(made: str, shown: str) -> None:
    assert made == shown


def test_an_interval_around_zero_claims_nothing() -> None:
    assert "cannot be told apart" in results.verdict(evaluation(low=-0.01), None)[1]


def test_thresholds_count_what_agreement_alone_would_keep() -> None:
    known = {"duration_s": 3600.0, "reference": "x", "ref_words": 10}
    rows = [known | {"agreement_mer": mer, "ref_wer_errors": n} for mer, n in ((0.0, 0), (0.45, 5), (None, 9))]
    shown = {row[0].text: [cell.text for cell in row[1:]] for row in intake.thresholds(rows).rows}
    assert shown["40.0 %"] == ["1", "33.3 %", "1.00", "0.0 %"]
    assert shown["50.0 %"] == ["2", "66.7 %", "2.00", "25.0 %"]


def test_the_stage_writes_the_page(made: Made, root: Path, tmp_path: Path) -> None:
    at = made.inputs
    paths = {
        "params": root / "params.yaml",
        "split": at.split,
        "test": at.test,
        "scores": at.scores,
        "metrics": at.metrics,
    }
    paths |= {"rejected": at.rejected, "evaluation": at.evaluation, "out": tmp_path / "reports" / "report.html"}
    arguments = [str(part) for name, path in paths.items() for part in (f"--{name}", path)]
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
    code += "assert 'torch' not in sys.modules, 'the report needs no torch'"
    subprocess.run([sys.executable, "-c", code, str(root / "stages" / "report.py"), *arguments], check=True)
    assert paths["out"].read_text(encoding="utf-8") == made.html()


@pytest.fixture
def browser(tmp_path: Path) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no browser: chromium is not on PATH")
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    quiet += " --disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=3000 --dump-dom"

    def show(path: Path) -> subprocess.CompletedProcess[str]:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [program, *quiet.split(), profile, path.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    return show


@pytest.mark.slow
def test_in_a_browser_the_page_works_without_an_error(
    made: Made, browser: Callable[[Path], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    report.write(made.params, made.inputs, path)
    shown = browser(path)
    page = Page(shown.stdout)
    assert not [line for line in shown.stderr.splitlines() if "CONSOLE" in line]
    assert page.all("html", data_ready="yes")
    assert "hidden" not in page.all("div", class_="filter")[0]
    assert len(page.all("audio")) == 6


PROBE = """
const first = document.querySelector("#results table"), audio = document.querySelector("audio");
const order = () => [...first.tBodies[0].rows].map((row) => row.cells[0].textContent).join();
const said = [order()];
for (let n = 0; n < 2; n++) { first.querySelectorAll("th button")[1].click(); said.push(order()); }
said.push(first.tHead.rows[0].cells[1].getAttribute("aria-sort"));
const rule = document.getElementById("by-rule");
rule.value = "confidence";
rule.dispatchEvent(new Event("change"));
said.push(document.getElementById("shown").value);
audio.addEventListener("loadedmetadata", () => { document.body.dataset.seconds = audio.duration.toFixed(2); });
audio.load();
document.body.dataset.said = said.join(" ");
"""


@pytest.mark.slow
def test_in_a_browser_tables_sort_examples_filter_and_audio_loads(
    made: Made, browser: Callable[[Path], subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    found = evaluation()
    for name in ("teacher", "student"):
        found[name]["domains"] = {
            d: {"wer": r, "mer": r, "utterances": 4, "words": 20} for d, r in (("a", 0.5), ("b", 0.1))
        }
    made.metric("evaluate", found)
    html = (
        made.html().replace("</script>", f"{PROBE}</script>").replace("script-src", "script-src 'unsafe-inline'; x-src")
    )
    path = tmp_path / "probed.html"
    path.write_text(html, encoding="utf-8")
    (body,) = Page(browser(path).stdout).all("body")
    assert body["data-said"] == "a,b b,a a,b descending 1 of 4 shown"
    assert body["data-seconds"] in ("1.00", "1.50")
