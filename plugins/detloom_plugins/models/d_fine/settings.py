"""Settings of the D-FINE family: `model.d_fine`."""

from __future__ import annotations

from detloom_plugins.models._d_fine.settings import DistributionSettings


class DFineSettings(DistributionSettings):
    """D-FINE (Peng et al. 2024). The defaults are the original's."""
