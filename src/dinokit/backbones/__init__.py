"""What a DINOv3 network is: pure torch modules that know no device, dtype, file or process group."""
