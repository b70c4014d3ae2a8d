from bcl import InputError
from bcl.core.errors import find_input_error, unknown_name


def test_the_nearest_name_is_suggested_whatever_its_case():
    assert "mean 'ResNet18'" in str(unknown_name("encoder", "resnet81", ["ResNet18", "vit"]))
    assert "mean" not in str(unknown_name("encoder", "zzz", ["ResNet18", "vit"]))
    assert "50 are known" in str(unknown_name("encoder", "zzz", map(str, range(50))))


def test_an_input_error_is_found_behind_other_errors():
    cause, middle, outer = InputError("x"), KeyError("y"), RuntimeError("z")
    middle.__context__, outer.__cause__ = cause, middle
    assert find_input_error(outer) is cause
    assert find_input_error(RuntimeError("z")) is None


def test_a_lost_worker_of_the_loader_is_an_input_error():
    lost = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. More words.")
    assert "data.workers" in str(find_input_error(lost))
