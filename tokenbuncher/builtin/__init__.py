"""The models that come with tokenbuncher."""
