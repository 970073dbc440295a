import { readFileSync } from "node:fs";
import type { Event, Status, Traffic } from "../src/types";

const read = (name: string): unknown => JSON.parse(readFileSync(new URL(`../fixtures/${name}.json`, import.meta.url), "utf8"));
export const status = (name: string) => read(`${name}.status`) as Status;
export const traffic = (name: string) => read(`${name}.traffic`) as Traffic;
export const events = (name: string) => read(`${name}.events`) as Event[];
export const STATUSES = ["ready", "failover", "rejoin", "starting", "empty", "many"];
