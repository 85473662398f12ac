"""Files in and out: images, their headers, and writes that are whole or not there at all."""
