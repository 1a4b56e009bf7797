from __future__ import annotations

import json
from pathlib import Path

from benchmarks.measures import Spread
from benchmarks.plots import Line, draw, lines

OWN = {
    "ours": {"wall@16": [3.0, 5.0, 4.0], "wall@4": [1.0], "tokens@4": [9.0]},
    "other": {"tokens@4": [9.0]},
}


def test_a_line_has_its_sizes_in_order_with_their_spreads() -> None:
    assert lines(OWN, "wall") == [Line("ours", (4, 16), (Spread(1, 1, 1), Spread(4, 3, 5)))]


def test_a_result_without_figures_gives_no_plot(tmp_path: Path) -> None:
    facts = {"model": "m", "threads": 2, "cpu": "c", "commit": "0"}
    result = tmp_path / "run.json"
    result.write_text(json.dumps({"facts": facts, "scenarios": {}}))
    assert draw(result) == []


def test_a_result_is_drawn_into_files_beside_it(tmp_path: Path) -> None:
    own = {"ours": {"tokens_per_second@1": [1.0], "ttft_p95@1": [1.0]}}
    scenarios = {"own": {"samples": own}, "prefix": {"samples": {"ours": {"wall": [2.0]}}}}
    facts = {"model": "m", "threads": 2, "cpu": "c", "commit": "0"}
    result = tmp_path / "run.json"
    result.write_text(json.dumps({"facts": facts, "scenarios": scenarios}))
    drawn = draw(result)
    assert len(drawn) == 3
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
