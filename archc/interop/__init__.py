"""Other projects' model descriptions -> archc's: so far config.json files of Hugging Face."""
