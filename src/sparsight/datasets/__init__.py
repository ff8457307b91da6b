"""Images to ask about: rendered scenes with exact masks, folders of files, sample photographs."""
