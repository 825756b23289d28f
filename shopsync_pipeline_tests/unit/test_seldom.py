"""How much of a flood is logged, on a clock of the test's."""

from webhook_receiver.seldom import LINES, MINUTE, Seldom


class Log:
    """What was written, and the time, which the test moves."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now = 0.0

    def write(self, form: str, text: str) -> None:
        self.lines.append(form % text)

    def seldom(self) -> Seldom:
        return Seldom(self.write, lambda: self.now)


def test_a_text_is_one_line_a_minute_and_the_next_tells_of_those_left_out() -> None:
    log = Log()
    seldom = log.seldom()
    for _ in range(1235):
        seldom.tell("refused %d")
    assert log.lines == ["refused %d"]
    log.now += MINUTE
    seldom.tell("refused")
    seldom.tell("another")
    assert log.lines[1:] == ["refused (and 1,234 more in the minute before)", "another"]
    log.now += MINUTE
    seldom.tell("refused")
    assert log.lines[3:] == ["refused"]


def test_a_flood_of_different_texts_ends_at_a_number_of_lines_a_minute() -> None:
    log = Log()
    seldom = log.seldom()
    for minute in range(3):
        for number in range(LINES + 5):
            seldom.tell(f"store {number}")
        assert len(log.lines) == LINES * (minute + 1)
        log.now += MINUTE
    assert log.lines[LINES] == "store 0 (and 5 more in the minute before)"
