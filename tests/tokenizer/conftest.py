"""Property tests take as long as they take: a busy machine is no failure."""

from hypothesis import HealthCheck, settings

settings.register_profile("ferry", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ferry")
