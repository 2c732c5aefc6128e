import ctypes

from qiml.engine import memory


class FakeLibrary:
    def __init__(self, calls):
        self.mallopt = lambda *arguments: calls.append(arguments)


def test_thresholds_reach_the_c_library(monkeypatch):
    calls = []
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: FakeLibrary(calls))
    monkeypatch.setattr(memory.sys, "platform", "linux")
    memory.keep_freed_memory()
    assert calls == [(-4, 0), (-1, 2**31 - 1)]


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    memory.keep_freed_memory()
