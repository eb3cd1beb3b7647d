"""Read a row of any form as the conversation that it holds."""
