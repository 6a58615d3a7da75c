"""Settings stand in a module of their own: pydantic is imported only when somebody asks for them."""

from typing import Annotated

from pydantic import Field

import detloom


class DimSettings(detloom.Settings):
    """Dimming."""

    strength: Annotated[float, Field(ge=0, le=1, description="largest share of light taken away")] = 0.5
