"""Fixtures for all tests."""

from __future__ import annotations

from tests.servers import seaweedfs as seaweedfs
