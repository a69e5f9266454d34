"""Places on the globe, WGS84."""


def check_coordinates(latitude: float, longitude: float) -> None:
    """Raise ValueError unless the place is on the globe, in degrees."""
    if not (-90.0 <= latitude <= 90.0 and -180.0 <= longitude <= 180.0):
        raise ValueError(
            f"expected latitude -90 to 90 and longitude -180 to 180, found {latitude}, {longitude}"
        )
