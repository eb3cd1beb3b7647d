import pytest

from mads_ray.pipeline.doctor.findings import (
    authentication,
    disk_findings,
    gpu_findings,
    memory_findings,
    model_findings,
    output_findings,
    version_findings,
)

GIB = 2**30
HERE = {"python": "3.11.7", "mads_ray": "0.1.0 (code 1a)", "ray": "2.60.0", "torch": "2.13.0+cpu"}


def test_equal_versions_are_one_line():
    same = {**HERE, "torch": "2.13.0+cu130"}  # another build of the same version
    (finding,) = version_findings(HERE, {"a": HERE, "b": same})
    assert finding.ok
    assert finding.detail.startswith("as on the driver: python 3.11.7")


@pytest.mark.parametrize(
    ("package", "version", "is_fatal"),
    [
        ("mads_ray", "0.1.0 (code 2b)", True),
        ("mads_ray", None, True),
        ("ray", "2.61.0", True),
        ("python", "3.12.1", True),
        ("python", "3.11.9", False),
        ("torch", "2.12.0+cpu", False),
        ("torch", None, True),
    ],
)
def test_version_skew(package, version, is_fatal):
    other = {**HERE, package: version}
    skew, rest = version_findings(HERE, {"a": HERE, "b": other, "c": other})
    assert (skew.name, skew.ok, skew.fatal) == (package, False, is_fatal)
    assert f"{version or 'missing'} on b, c, {HERE[package]} on the driver" in skew.detail
    assert package not in rest.detail.replace("mads_ray" if package == "ray" else "", "")


def test_torch_must_see_the_gpus_that_ray_hands_out():
    good = list(gpu_findings({"a": (2.0, ["H100", "H100"]), "b": (2.0, ["H100", "H100"])}))
    assert [(f.ok, f.detail) for f in good] == [(True, "2 x H100 on all 2 nodes")]
    bad = list(gpu_findings({"a": (8.0, []), "b": (1.0, "libcudart is missing")}))
    assert [(f.ok, f.fatal) for f in bad] == [(False, True)] * 2
    assert [f.detail for f in bad] == [
        "a: Ray sees 8, torch 0",
        "b: Ray sees 1, torch fails: libcudart is missing",
    ]
    (none,) = gpu_findings({"a": (0.0, [])})
    assert (none.ok, none.detail) == (True, "none on a")


def test_ray_may_hand_out_fewer_gpus_than_there_are():
    found = list(gpu_findings({"a": (4.0, ["H100"] * 8), "b": (0.0, ["A10"])}))
    assert [(f.ok, f.fatal) for f in found] == [(False, False)] * 2
    assert [f.detail for f in found] == ["a: Ray sees 4, torch 8", "b: Ray sees 0, torch 1"]
    assert all("fine if meant" in f.remedy for f in found)


def test_nodes_must_reach_one_model_in_one_precision():
    one = {"revision": "sha256:1", "dtype": "bfloat16"}
    (good,) = model_findings("m", {"a": one, "b": {**one, "dtype": "float32"}}, {"a"})
    assert good.detail == "m (sha256:1): reached from all 2 nodes"
    found = list(model_findings("m", {"a": one, "b": {**one, "dtype": "float32"}}, {"a", "b"}))
    assert [f.fatal for f in found] == [True, False]
    assert "dtype differs: bfloat16 on a; float32 on b" in found[0].detail
    (skew, _) = model_findings("m", {"a": one, "b": {**one, "revision": "sha256:2"}}, {"a"})
    assert "revision differs" in skew.detail
    (absent,) = model_findings("m", {"a": {"error": "no"}, "b": {"error": "no"}}, {"a"})
    assert (absent.fatal, absent.detail) == (True, "all 2 nodes: no")


def test_every_node_must_write_to_the_output():
    (good,) = output_findings("/x", ["a", "b"], {})
    assert (good.ok, good.detail) == (True, "/x: one folder, written from all 2 nodes")
    (one, two) = output_findings("/x", list("abcd"), {"a": "no", "c": "no", "d": "unseen"})
    assert (one.fatal, one.detail) == (True, "/x: a, c: no")
    assert (two.fatal, two.detail) == (True, "/x: d: unseen")


def test_authentication_is_on_when_every_node_has_it():
    assert authentication(["token", "token"]).ok
    off = authentication(["token", "disabled"])
    assert (off.ok, off.fatal) == (False, False)
    assert "RAY_AUTH_MODE=token" in off.remedy


def test_room_for_objects():
    (good,) = memory_findings({"a": (GIB, (2 * GIB, 3 * GIB)), "b": (2 * GIB, None)})
    assert good.detail == "at least 1.0 GiB on each node; 2.0 GiB or more free in /dev/shm"
    small, _ = memory_findings({"a": (GIB, (GIB, 4 * GIB)), "b": (GIB, (GIB // 16, GIB // 16))})
    assert (small.ok, small.fatal) == (False, False)
    assert small.detail.startswith("b: /dev/shm has 0.1 GiB")
    full, least = disk_findings({"a": ("/tmp", GIB, 100 * GIB), "b": ("/tmp", 9 * GIB, 10 * GIB)})
    assert (full.ok, full.detail) == (False, "a: /tmp is over 95% full (1.0 GiB free)")
    assert least.detail == "1.0 GiB or more free (least on a, /tmp)"
