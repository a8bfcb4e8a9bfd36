from tests.web.conftest import ANN, BOB
from tests.web.kit import Visitor, shown
def test_smoke(visitor: Visitor) -> None:
    page = visitor.sign_in(ANN)
    assert page.status_code == 200, page.text
    made = visitor.create("phone")
    assert made.status_code == 200, made.text
    assert shown(made)
    visitor.gate.secrets.append(shown(made))
    print(visitor.gate.web_log())
    assert 0
