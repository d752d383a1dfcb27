"""The components that come with the core, offered through the same door as every plugin's."""
