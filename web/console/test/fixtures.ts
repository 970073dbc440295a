import { readFileSync } from "node:fs";
import type { Event, Process, Status, Traffic } from "../src/types";

const read = (name: string): unknown => JSON.parse(readFileSync(new URL(`../fixtures/${name}.json`, import.meta.url), "utf8"));
export const status = (name: string) => read(`${name}.status`) as Status;
export const traffic = (name: string) => read(`${name}.traffic`) as Traffic;
export const events = (name: string) => read(`${name}.events`) as Event[];
export const processes = (name: string) => read(`${name}.processes`) as Process[];
export const STATUSES = ["ready", "failover", "rejoin", "starting", "empty", "no-database", "no-cache", "one-service", "many"];
