from pathlib import Path

ROOT = Path(__file__).parents[2]


def versions(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if "==" in line]
    return {package.lower().replace("_", "-"): version for package, version in pairs}


def test_wheels_for_a_machine_with_a_gpu_are_of_the_tested_versions():
    wheels, tested = versions("benchmarks/gpu_wheels.txt"), versions("constraints.txt")
    both = wheels.keys() & tested.keys()
    assert {"transformers", "trl", "peft", "accelerate"} <= both
    assert {name: wheels[name] for name in both} == {name: tested[name] for name in both}
