#!/bin/sh
echo wonderland
