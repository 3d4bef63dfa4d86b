"""The metrics file and the picture."""

from exlstm.train.metrics import MetricsLog, draw_curve, read_metrics


def test_a_step_is_one_line(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", step=0)
    log.add(1, loss=3.0)
    log.add(2, loss=2.0)
    log.add(2, validation_loss=2.5)
    log.close()
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert [first["step"], first["loss"]] == [1, 3.0]
    assert [second["step"], second["loss"], second["validation_loss"]] == [2, 2.0, 2.5]
    assert 0 <= first["elapsed"] <= second["elapsed"]


def test_a_resume_drops_what_it_repeats_and_the_clock_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss": 3.0, "elapsed": 50.0}\n'
        '{"step": 2, "loss": 2.0, "elapsed": 100.0}\n'
        '{"step": 3, "loss": 1.0, "elapsed": 150.0}\n'
        '{"step": 4, "lo'
    )
    log = MetricsLog(path, step=2)
    log.add(3, loss=1.5)
    log.close()
    lines = read_metrics(path)
    assert [line["loss"] for line in lines] == [3.0, 2.0, 1.5]
    assert 100.0 <= lines[-1]["elapsed"] < 110.0


def test_the_line_of_a_saved_step_is_in_the_file(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", step=0)
    log.add(1, loss=3.0)
    log.sync()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
    log.close()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_a_picture_of_any_length(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, step=0)
    for step in range(1, 60):
        log.add(step, bits_per_byte=8.0 / step)
        if step % 20 == 0:
            log.add(step, validation_bits_per_byte=8.0 / step)
        if step in (1, 59):
            log.sync()
            draw_curve(path, tmp_path / "loss.png", title="a run")
            assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    log.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["loss.png", "metrics.jsonl"]
